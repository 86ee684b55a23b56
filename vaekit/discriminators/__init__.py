"""x or z → logits: critics for adversarial terms. The registry is open for parts of other packages."""
