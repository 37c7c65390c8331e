"""A finished file -> one HTML page that needs nothing else, or a page and a server beside the file."""
