"""The group level: did harmonization help a study, and more than the alternatives?"""
