"""Files that nobody should believe: damaged, lying about their sizes, or made to do harm."""
