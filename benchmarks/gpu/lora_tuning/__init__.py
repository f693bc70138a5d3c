"""What `tune_lora.py` is made of: batches, the search, the file of the table."""
