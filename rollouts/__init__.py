"""What experts did: episodes, where they are kept, and how they are collected."""
