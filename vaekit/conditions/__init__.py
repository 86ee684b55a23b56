"""What is known beside x → tokens. One form a file; importing this package registers them."""

from vaekit.conditions.class_label import ClassCondition as ClassCondition
