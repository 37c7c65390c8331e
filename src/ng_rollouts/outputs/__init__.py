"""The output file and its side files: write, resume, read, merge and upload them."""
