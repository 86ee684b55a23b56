"""Blocks that an encoder and a decoder share."""
