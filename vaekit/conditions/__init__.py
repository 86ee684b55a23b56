"""What is known beside x → tokens. One idea a file; importing this package registers them."""

from vaekit.conditions.class_label import ClassCondition as ClassCondition
from vaekit.conditions.target import TargetCondition as TargetCondition
