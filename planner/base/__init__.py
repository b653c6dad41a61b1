"""What every room stands on: errors, records, units, safe text, whole files, processes and threads."""
