"""Encoders that other libraries trained (`config.init_encoder`): a file per source."""
