"""The small package that the course's notebooks share: see ARCHITECTURE.md for what each module does."""
