"""The parts of utils/audit.py: the layer algebra, the gradient footprint, and a row for each requirement."""
