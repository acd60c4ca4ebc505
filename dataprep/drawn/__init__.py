"""Pictures that are drawn, not photographed: one module per kind, each with

draw(seed, index, size)   image `index` of the endless series `seed`, (size, size, 3) uint8
"""
