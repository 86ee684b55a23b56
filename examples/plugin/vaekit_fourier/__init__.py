"""An encoder and a prior for vaekit. Nothing is imported here: vaekit loads a part when somebody names it."""
