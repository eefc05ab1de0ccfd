"""``python -m api.client.derivation``: writes ``api/client/_async``, the asynchronous client, from the plain one.

Calls are written once, in the plain files beside this one. What waits there (a request, a stream, a sleep) becomes
``await``, ``async for`` or ``async with`` there, and so does whatever calls it. A test holds what lies in ``aio``
against what comes out here, so that nobody has to think of it: add a call to the plain client and run this.

Only what waits is written a second time; constants, helpers and small classes are imported from the plain file.
"""
