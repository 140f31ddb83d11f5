"""One loss per file; `autoseg.losses` lists them and says what their functions get and return."""
