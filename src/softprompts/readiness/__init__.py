"""Before anything is trained: are goal, data, test and baseline good enough, and may the data be used?"""
