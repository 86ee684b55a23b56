"""The type checker behind the jaxtyping hook: beartype, with ints taken for floats as PEP 484 has it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
