"""Shipped fakes, contract test classes, and generators of synthetic corpora in the true layouts. Only tests import this."""
