FRAMEWORKS: dict = {}
