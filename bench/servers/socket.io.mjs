// The npm server `socket.io`: what one client says, all the others hear.  Prints
// its port.

import { createServer } from 'node:http';
import { Server } from 'socket.io';

const http = createServer();
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, pingInterval: 600_000 });
io.on('connection', (socket) => {
  socket.on('say', (data) => socket.broadcast.emit('say', data));
});
http.listen(0, '127.0.0.1', () => console.log(http.address().port));
