"""From an image as read to the array a network sees, and the store that keeps such arrays."""
