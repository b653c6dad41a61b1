"""Writes a placement in the form the PowerInfer engine loads: the PWRI GPU index."""
