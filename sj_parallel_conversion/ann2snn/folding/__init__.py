"""Folding: the arithmetic of the neurons becomes part of the weights around them."""
