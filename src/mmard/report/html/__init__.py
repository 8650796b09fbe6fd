"""One self-contained page of several runs: tables, figures, examples. It reads run folders, never models."""
