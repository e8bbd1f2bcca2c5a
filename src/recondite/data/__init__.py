"""Images, data sets, files, tables and artifacts: in and out."""
