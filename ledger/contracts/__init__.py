"""The contract language: from an author's text to what is signed, with every mistake named by its place."""
