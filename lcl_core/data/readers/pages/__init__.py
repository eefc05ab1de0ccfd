"""From HTML or Markdown pages to documents: texts and figures in reading order, without what surrounds them."""
