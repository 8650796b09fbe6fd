"""What knows nothing of the field: errors, files, numbers, validation, processes."""
