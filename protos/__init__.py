"""The wire contract: `.proto` files, the code generated from them, and the errors that travel."""
