"""What-if studies: the study file, its cells, the evaluator, speed, answers and questions."""
