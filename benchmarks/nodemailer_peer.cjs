// One round of nodemailer with a pool of five connections and one PostgreSQL row per mail, the usual shape of a Node
// sender: node nodemailer_peer.cjs OPTIONS. OPTIONS is a JSON object: count, port, host (the directory of
// PostgreSQL's socket), database, subject, text. Each mail is built by nodemailer. Prints {"seconds", "cpu_s"}.
"use strict";

const nodemailer = require("nodemailer");
const { Pool } = require("pg");

async function main(options) {
  const database = new Pool({ host: options.host, database: options.database, user: "postgres", max: 5 });
  await database.query(
    "create table if not exists mails (id bigint generated always as identity primary key, message_id text unique, " +
      "sender text not null, recipient text not null, answer text, sent_at timestamptz not null default now())",
  );
  const started = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  const transport = nodemailer.createTransport({
    host: "localhost", port: options.port, secure: false, requireTLS: true, pool: true, maxConnections: 5,
    auth: { user: "sender1@senders.test", pass: "any" },
  });
  const mail = { from: "sender1@senders.test", to: "bot1@bots.test", subject: options.subject, text: options.text };
  const sendOne = async () => {
    const sent = await transport.sendMail({ ...mail });
    await database.query("insert into mails (message_id, sender, recipient, answer) values ($1, $2, $3, $4)", [
      sent.messageId, mail.from, mail.to, sent.response,
    ]);
  };
  await Promise.all(Array.from({ length: options.count }, sendOne));
  transport.close();
  const used = process.cpuUsage(cpu);
  const seconds = Number(process.hrtime.bigint() - started) / 1e9;
  await database.end();
  console.log(JSON.stringify({ seconds, cpu_s: (used.user + used.system) / 1e6 }));
}

main(JSON.parse(process.argv[2])).catch((error) => {
  console.error(error);
  process.exit(1);
});
