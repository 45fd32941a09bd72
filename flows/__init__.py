"""What Prefect deploys: one file per flow, each a page long. Importable from the checkout and in the image."""
