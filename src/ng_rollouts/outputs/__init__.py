"""Outputs: the output file and its side files, written, resumed, read, merged, uploaded."""
