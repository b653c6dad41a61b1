"""The files of engines that place single experts: written from a plan, and read back by each engine's own rule."""
