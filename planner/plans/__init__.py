"""The plan, a contract with other programs: its records, its file, and the files of the first version."""
