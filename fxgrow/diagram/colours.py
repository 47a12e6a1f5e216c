"""Colours of diagrams."""
# Okabe and Ito's colours, which all readers can tell apart, lightened so that black letters stand out on them
COLOURS = {"convolution": "#7FB8D8", "matrix product": "#EAAE7F", "attention": "#E5BBD3", "recurrent": "#CC79A7",
           "normalisation": "#F7F1A0", "activation": "#7FCEB9", "pooling": "#AAD9F4", "arithmetic": "#F2CF7F",
           "join": "#FFFFFF", "shape": "#E2E2E2", "random": "#F4F4F4", "other": "#FFFFFF", "in and out": "#FFFFFF"}
FRAME, PALE, INK = "#555555", "#666666", "#333333"
