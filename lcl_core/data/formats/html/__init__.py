"""From HTML or Markdown pages to documents: texts and images in reading order, without navigation and menus."""
