// SPDX-License-Identifier: GPL-2.0-or-later
// get.mjs HOW URL CID...: a stock helia gets these blocks by HTTP, a line of JSON for each. HOW is what it is told of
// the relay: "routing", that it says who has a block, or "gateway", that it is one.
import { createHeliaHTTP } from '@helia/http'
import { trustlessGateway } from '@helia/block-brokers'
import { delegatedHTTPRouting, httpGatewayRouting } from '@helia/routers'
import { CID } from 'multiformats/cid'

// Of JavaScript since 2024, and of Node since 22; helia uses it, and Debian has 20.
Promise.withResolvers ??= () => {
  const made = {}
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }))
  return made
}

const [how, url, ...cids] = process.argv.slice(2)
// What a page for a browser has to say of a relay: it is neither encrypted nor public.
const helia = await createHeliaHTTP({
  blockBrokers: [trustlessGateway({ allowInsecure: true, allowLocal: true })],
  routers: [how === 'routing' ? delegatedHTTPRouting(url) : httpGatewayRouting({ gateways: [url] })]
})
for (const text of cids) {
  const said = { cid: text }
  // helia itself looks on for ever.
  const late = new Promise((_, reject) => setTimeout(reject, 10_000, new Error('nobody has it')))
  try {
    const got = await Promise.race([helia.blockstore.get(CID.parse(text)), late])
    said.data = Buffer.from(got).toString('hex')
  } catch (error) {
    said.error = String(error)
  }
  console.log(JSON.stringify(said))
}
process.exit(0)
