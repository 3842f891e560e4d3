"""Books read aloud: files to chapters, chapters to sound, sound to one file with marks."""
