"""The website that `make site` builds; README.md beside this file says how."""
