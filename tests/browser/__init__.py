"""The panels in a real browser: headless Chromium on a real JupyterLab, and on Voilà.

Runs where `chromium` and `chromedriver` are, and is skipped elsewhere. `make screenshots` keeps in
`results/widgets/` what it saw: pictures, and how long each slider's picture took (measured, not
tested).
"""
