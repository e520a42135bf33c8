"""Explorer: the page on which anyone looks at a store, and the small server behind it.

    actigrad explore runs/digits/digits.zarr

    state      what was chosen, as a value and as the query of a URL
    source     a store as all viewers share it, followed while it is written
    view       a state fitted to what the stores hold
    matrix     what the heatmap shows and a download holds
    overview, heatmap, card, structure      the panes: needs → read (thread) → show (document)
    session    one viewer; page: what the browser runs
    security   who may ask for what; server: the process

It draws with Bokeh itself, and not with `views`: a figure that stays and gets new data moves within a frame or two,
where a new HoloViews element each time would take a quarter of a second, and importing them takes longer than this
server may take to start. Nothing here imports JAX, HoloViews or Datashader.
"""
