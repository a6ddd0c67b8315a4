"""The pages of the documentation, and the scripts that write and draw parts of them."""
