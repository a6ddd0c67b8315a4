"""Claims about learning rates and batches: what is compared, by which rule, and what came out. Pure: nothing is trained here."""
