"""Configuration models: the only defaults there are, each with its source. Loads no torch."""
