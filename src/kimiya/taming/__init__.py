"""Taming: what reaches the client is a call the model meant, or an honest retry."""
