"""General tools that know nothing of the field: errors, files, numbers, validation, processes."""
