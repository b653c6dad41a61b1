"""The engines: one room for each, behind the interface of `planner.engines.engine`."""
