// The same queries by Node.js: http and pg, no token.
// node server.js SOCKET_FOLDER DATABASE ROLE USER SOURCE POOL
'use strict';
const http = require('http');
const {Pool} = require('pg');
const [host, database, role, user, source, max] = process.argv.slice(2);
const pool = new Pool({host, database, user: role, max: Number(max)});
const download = {name: 'q', text: 'SELECT rowsync.download($1, $2, 0, 10) AS body',
                  values: [user, source]};
const upload = (body) => ({name: 'u', text: 'SELECT rowsync.upload($1, $2, $3) AS body',
                           values: [user, source, body]});

const answer = (response, query) => {
    pool.query(query).then(({rows: [{body}]}) => {
        response.writeHead(200, {'Content-Type': 'application/json',
                                 'Content-Length': Buffer.byteLength(body)});
        response.end(body);
    }, (error) => {
        response.writeHead(500);
        response.end(String(error));
    });
};

const server = http.createServer((request, response) => {
    if (request.method !== 'POST') {
        answer(response, download);
        return;
    }
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => answer(response, upload(Buffer.concat(chunks).toString())));
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
