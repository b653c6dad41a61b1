"""Engines that place the experts of mixture-of-experts models: what they share, and one module for each."""
