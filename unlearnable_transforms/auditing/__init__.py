"""What somebody else's set is worth: is it protected, and how well?"""
