// The same query by Node.js: http and pg, no token. node server.js SOCKET_FOLDER DATABASE ROLE USER SOURCE POOL
'use strict';
const http = require('http');
const {Pool} = require('pg');
const [host, database, role, user, source, max] = process.argv.slice(2);
const pool = new Pool({host, database, user: role, max: Number(max)});
const query = {name: 'q', text: 'SELECT rowsync.download($1, $2, 0, 10) AS body', values: [user, source]};

const server = http.createServer((request, response) => {
    pool.query(query).then(({rows: [{body}]}) => {
        response.writeHead(200, {'Content-Type': 'application/json',
                                 'Content-Length': Buffer.byteLength(body)});
        response.end(body);
    }, (error) => {
        response.writeHead(500);
        response.end(String(error));
    });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
