"""A report as one HTML file that needs nothing else: no network, no server, no other file.

What the store holds goes into the page as escaped text or as JSON in an inert script element; the page's own
script shows it with `textContent`. Its content security policy allows that script, named by its hash, and
nothing else.
"""
